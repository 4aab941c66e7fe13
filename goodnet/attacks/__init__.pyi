from .default_case import SMALL_CASE as SMALL_CASE
from .default_case import TARGET as TARGET
from .default_case import DefaultCase as DefaultCase
from .default_case import render_sets as render_sets
from .training import train_badnet as train_badnet
from .triggers import TRIGGERS as TRIGGERS
from .triggers import Trigger as Trigger
