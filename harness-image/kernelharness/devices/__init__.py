"""Where candidates run: one file per kind of device behind `base.Device`."""
