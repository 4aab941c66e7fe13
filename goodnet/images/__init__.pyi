from .hdf5_sets import write_images as write_images
from .image_sets import ImageSet as ImageSet
from .image_sets import open_images as open_images
