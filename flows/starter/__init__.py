"""The starter project that ``featurefab init`` copies. In its files ``${day3}`` stands for the date three days ago."""
