"""A choice has one meaning and one default wherever a user makes it."""

import inspect

import pytest

import goodnet
from flows.audit import _parser as audit_parser
from flows.audit_models import audit
from flows.repair import repair
from flows.run import _parser as run_parser
from goodnet.choices import CHOICE_PARAMETERS, LIMIT_PARAMETERS, Choices
from goodnet.images.preprocessing import Preprocessing
from goodnet.model_files.limits import ModelLimits


def defaults_of(function):
    return {name: one.default for name, one in inspect.signature(function).parameters.items()}


def defaults_of_command(parser, *arguments):
    return vars(parser.parse_args(arguments))


AUDIT = ("--models", "m", "--clean-valid", "v.h5", "--clean-test", "t.h5")


@pytest.mark.parametrize(
    "defaults",
    [
        defaults_of(repair.fn),
        defaults_of(audit.fn),
        defaults_of_command(run_parser("run")),
        defaults_of_command(audit_parser("audit"), *AUDIT),
    ],
    ids=["flow repair", "flow audit", "flows.run", "flows.audit"],
)
def test_flows_and_commands_know_every_choice_and_its_default(defaults):
    assert set(CHOICE_PARAMETERS) <= defaults.keys()
    assert Choices.of(defaults) == Choices()


def test_so_does_the_call_from_python():
    """It takes models from memory, whose files have no size, and verifies nothing that is saved."""
    defaults = defaults_of(goodnet.repair)
    without = dict.fromkeys(("verify", *LIMIT_PARAMETERS))
    assert set(CHOICE_PARAMETERS) - defaults.keys() == without.keys()
    said = Choices().parameters()
    assert Choices.of(defaults | {name: said[name] for name in without}) == Choices()


def test_what_was_chosen_is_said_as_a_flow_is_told_it():
    prepared = Preprocessing(
        scale=2, mean=(0.5, 0.4, 0.3), std=(0.2,), channel_order="bgr", pixel_range=(-1, 1)
    )
    limits = ModelLimits(max_file_bytes=10_000, max_parameters=500)
    choices = Choices(drops=(3.0,), target=4, preprocessing=prepared, limits=limits)
    said = choices.parameters()
    assert said.keys() == set(CHOICE_PARAMETERS)
    assert Choices.of(said) == choices
