"""Files that appear whole, HDF5 of strangers, and the folder of a run."""
