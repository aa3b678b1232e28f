"""Escapes at the borders: no text of data, models or users is markup, a control sequence, a formula or mathematics.

`terminal.py` and `console.py` print, `spreadsheet.py` writes cells of CSV files, `figure_text.py` labels figures. The
border to HTML is `rlalign/html/markup.py`.
"""
