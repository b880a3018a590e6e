"""A policy out of its run: acting in Python, exported into one file, served to robots."""
