from .goodnet import build_goodnet as build_goodnet
from .methods import CONTROL as CONTROL
from .methods import DETECTORS as DETECTORS
from .methods import REPAIRS as REPAIRS
from .seam import Candidate as Candidate
from .seam import CleanPass as CleanPass
from .seam import Detector as Detector
from .seam import Repair as Repair
