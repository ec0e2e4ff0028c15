"""Workers: one Ray actor each, its runner processes, and the tasks of CPU pools."""
