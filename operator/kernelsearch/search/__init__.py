"""The search core: a pure function of a journal. No I/O, no clock, no randomness that a replay would not repeat."""
