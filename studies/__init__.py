"""Studies that train models: run from a checkout, in no wheel."""
