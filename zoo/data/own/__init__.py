"""Data of the user's own: pictures in folders, arrays, tables, series, texts; named in `zoo.data.DATA`."""
