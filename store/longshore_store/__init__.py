"""The truth: what a job is, which states it passes, and how each change is made durable."""
