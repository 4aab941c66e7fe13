"""The public names: read by type checkers and, when a name is first used, by `__init__.py`."""

from .attacks.default_case import SMALL_CASE as SMALL_CASE
from .attacks.default_case import TARGET as TARGET
from .attacks.default_case import DefaultCase as DefaultCase
from .attacks.default_case import render_sets as render_sets
from .attacks.training import train_badnet as train_badnet
from .defenses.goodnet import build_goodnet as build_goodnet
from .digests import digest_file as digest_file
from .errors import InputError as InputError
from .images.image_sets import open_images as open_images
from .images.image_sets import write_images as write_images
from .images.preprocessing import Preprocessing as Preprocessing
from .in_process import Repair as Repair
from .in_process import repair as repair
from .metrics import wilson_interval as wilson_interval
from .model_files.load import load_model as load_model
from .model_files.load import save_model as save_model
from .networks.evaluation import accuracy as accuracy
from .pruning.activation_cache import ActivationCache as ActivationCache
from .pruning.activation_cache import Provenance as Provenance
from .pruning.channels import prune_channels as prune_channels
from .pruning.counts import write_curves as write_curves
from .pruning.first_pass import write_activations as write_activations
from .pruning.frontier import find_frontier as find_frontier
from .pruning.ranking import block_means as block_means
from .pruning.ranking import mean_activations as mean_activations
from .pruning.ranking import prune_order as prune_order
from .pruning.stop_rule import find_checkpoint as find_checkpoint
from .pruning.sweep import sweep as sweep
from .reports.counted_results import make_results as make_results
from .reports.plots import activation_chart as activation_chart
from .reports.plots import curve_chart as curve_chart
from .reports.plots import detection_chart as detection_chart
from .reports.results_table import printed_rows as printed_rows
from .tensorflow_start import import_tensorflow as import_tensorflow

__version__: str
