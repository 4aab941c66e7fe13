from .files import atomic_folder as atomic_folder
from .files import atomic_path as atomic_path
from .files import read_json as read_json
from .files import write_json as write_json
from .run_folder import RunFolder as RunFolder
from .safe_hdf5 import open_hdf5 as open_hdf5
