"""From flags to records: a run is described, its cell trained, its record stored, once."""
