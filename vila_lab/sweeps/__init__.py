"""Many questions, asked once each and kept: tables, workers, stores and reports. Imports nothing, so that the command line starts quickly."""
