"""Many pictures: each exactly once, on one machine or several, as rows in Parquet."""
