"""Everything that is written of a study: tables in the terminal, results.csv, plots, and reports in HTML."""
