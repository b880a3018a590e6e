"""Run folders -> figures, tables, pictures, pages."""
