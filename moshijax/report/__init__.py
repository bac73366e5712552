"""Reports as pages that stand alone: tables, charts, pictures and sounds in one file."""
