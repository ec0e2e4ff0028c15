"""The scheduler: decides which worker runs which job when, and what follows when it ends."""
