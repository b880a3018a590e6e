"""Run folders: made, saved, opened, gone on with."""
