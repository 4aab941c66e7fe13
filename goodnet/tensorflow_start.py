"""Importing TensorFlow, for Keras to run on, without start-up notices and with channels last."""

from __future__ import annotations

import os
import sys
import tempfile

from goodnet.errors import InputError
from goodnet.heavy_imports import importing

_BACKEND = "tensorflow"


def import_tensorflow() -> None:
    """Import TensorFlow and make it the backend of Keras, whatever the environment says.

    What it writes to the error stream on the way shows only if it fails. It writes notices about
    CPU features and absent GPUs before any log level is in force.

    Raises:
        InputError: Keras runs on another backend in this process already, or the folder for
            temporary files has a name that TensorFlow cannot write.
    """
    os.environ["KERAS_BACKEND"] = _BACKEND
    _require_temporary_folder()
    if "tensorflow" not in sys.modules:
        _import_quietly()
    import keras  # imported with TensorFlow's names for it, or by the user before

    chosen = keras.config.backend()
    if chosen != _BACKEND:
        raise InputError(
            f"Keras runs on {chosen} in this process, expected {_BACKEND}: set "
            f"KERAS_BACKEND={_BACKEND} before Keras is imported, and start again"
        )
    # Some layers ask for it when they run, and a user's keras.json may say channels first.
    keras.config.set_image_data_format("channels_last")
    _remember_skipped_attributes()


def _remember_skipped_attributes() -> None:
    """Let Keras find which attributes of layers hold no weights, which it means to work out once.

    `get_attr_skipset` keeps the answer under another name than it looks under, so that Keras makes
    a layer only to list its attributes for each layer that it saves or loads: a fifth of the time.
    """
    from keras.src.backend.common.global_state import set_global_attribute
    from keras.src.saving.saving_lib import get_attr_skipset

    for kind in ("Operation", "Layer", "Functional", "Sequential"):
        set_global_attribute(f"saving_attr_skiplist_{kind}", get_attr_skipset(kind))


def _require_temporary_folder() -> None:
    """Refuse one that TensorFlow, which writes the code of its functions there, cannot name."""
    folder = tempfile.gettempdir()
    try:
        folder.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{folder}: is no UTF-8, expected another folder for temporary files in TMPDIR"
        ) from error


def _import_quietly() -> None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stderr.flush()
    error_stream = os.dup(2)
    with tempfile.TemporaryFile() as notices:
        os.dup2(notices.fileno(), 2)
        try:
            with importing():
                import tensorflow  # noqa: F401
        except Exception:  # not a signal's: who stops a command did not ask for notices
            notices.seek(0)
            os.write(error_stream, notices.read())
            raise
        finally:
            os.dup2(error_stream, 2)
            os.close(error_stream)
