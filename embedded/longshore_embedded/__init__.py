"""`longshore up`: server, scheduler, SQLite and a local Ray, put together on one machine."""
