"""The child process of a worker: it alone imports task code and runs it."""
