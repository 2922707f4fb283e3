"""The accuracy study: a table of runs, each trained, scored on people whom it never saw, and compared."""
