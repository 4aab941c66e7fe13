"""Image sets: HDF5 files and folders of pictures, with their labels."""
