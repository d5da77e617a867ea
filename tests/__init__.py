"""The tests mirror the packages; fakes are small working code."""
