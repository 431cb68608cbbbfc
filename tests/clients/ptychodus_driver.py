"""Runs ptychodus without a window, in its own Python; prints one line of JSON.

Usage: ptychodus_driver.py libraries                      the reconstructors that it finds
       ptychodus_driver.py batch FOLDER MODEL_NAME        train in FOLDER, save as MODEL_NAME there, reload, reconstruct
"""

import json
import sys
from pathlib import Path


def libraries(model):
    """Library → names of its reconstructors."""
    found = {}
    for name in ("ptychopinn_reconstructor_library", "ptychopinn_torch_reconstructor_library"):
        library = getattr(model, name, ())
        found[name] = [item.get_name() if hasattr(item, "get_name") else item.name for item in library]
    return found


def batch(model, folder, model_name):
    """Exit codes of batch training and batch reconstruction, with the model saved and loaded again in between."""
    trained = model.batch_mode_execute("train", folder, folder / "trained")
    model.processing_core.processing_api.save_model_to_file(folder / model_name)
    return [int(trained), int(model.batch_mode_execute("reconstruct", folder, folder / "reconstructed"))]


def main():
    from ptychodus.model.core import ModelCore

    with ModelCore(None) as model:
        action, *arguments = sys.argv[1:]
        result = libraries(model)
        if action == "batch":
            result["exit_codes"] = batch(model, Path(arguments[0]), arguments[1])
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
