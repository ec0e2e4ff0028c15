"""What a GPU adds to a worker: device binding, device facts, and the tasks of GPU pools."""
