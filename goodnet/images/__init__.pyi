from .class_names import ClassNames as ClassNames
from .class_names import read_class_names as read_class_names
from .hdf5_sets import write_images as write_images
from .image_sets import ImageSet as ImageSet
from .image_sets import open_images as open_images
from .image_sets import open_sets as open_sets
from .preprocessing import Preprocessing as Preprocessing
