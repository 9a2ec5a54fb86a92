"""Where candidates are evaluated: this machine (`local`) or pods of a cluster (`jobs`)."""
