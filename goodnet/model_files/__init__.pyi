from .describe import ModelDescription as ModelDescription
from .describe import describe_model as describe_model
from .limits import DEFAULT_LIMITS as DEFAULT_LIMITS
from .limits import ModelLimits as ModelLimits
from .load import load_model as load_model
from .load import save_model as save_model
