"""Studies that train models. They run from a checkout and are in no wheel."""
