"""The doctor: what must be true of a database at any time, counted again from its rows.

Every check is one statement, and one statement sees one moment of the database: a live system does
not look drifted. What two processes publish one after the other is looked at twice.
"""
