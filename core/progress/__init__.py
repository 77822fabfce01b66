"""How far a run is: told once, shown as bars, lines or JSON, and kept in a file for `platform status`."""
