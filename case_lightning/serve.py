"""Serve a run: `python -m case_lightning.serve --run RUN [--port 8000]`.

Answers as OpenAI's clients ask, from the edited model and the unedited one, and takes new facts while it answers; at
`/` is a page to try it from. It listens at this machine's own address alone, unless the environment variables
`CASE_READ_TOKEN` and `CASE_EDIT_TOKEN` hold bearer tokens.
"""

import os
import sys

from jsonargparse.typing import PositiveInt, restricted_number_type

from case_lightning.command_line import SettingsParser, run_verb
from case_lightning.errors import ConfigError

Port = restricted_number_type("Port", int, [(">=", 0), ("<=", 65535)])


def main(arguments: list[str] | None = None) -> None:
    """Run the command.

    Args:
        arguments: The command line; by default the process's own.
    """
    from case_lightning.serving.settings import Limits, ServeSettings, read_tokens

    parser = SettingsParser(prog="python -m case_lightning.serve", description=__doc__)
    parser.add_argument("--run", required=True, help="folder of a run")
    parser.add_argument("--host", type=str, default="127.0.0.1", help="address to listen at")
    parser.add_argument("--port", type=Port, default=8000, help="port; 0 is any that is free")
    parser.add_argument("--edits", type=bool, default=True, help="whether facts may be added")
    parser.add_argument(
        "--chat",
        choices=["auto", "question", "template"],
        default="auto",
        help="what of a chat the model is given; `auto`: its template where edits were fitted in it, too",
    )
    parser.add_argument("--log_prompts", type=bool, default=False, help="whether the log holds questions and answers")
    for name, value in vars(Limits()).items():
        parser.add_argument(f"--limits.{name}", type=PositiveInt, default=value, help="see docs/serving.md")
    options = parser.read(arguments).as_dict()
    settings = ServeSettings(**options | {"limits": Limits(**options["limits"])}, tokens=read_tokens(os.environ))
    try:
        from case_lightning.serving.run import serve_run  # torch is slow to import: --help need not wait
    except ModuleNotFoundError as error:
        raise ConfigError(f"serving needs {error.name}; install it with pip install 'case_lightning[serve]'") from error

    serve_run(settings)


if __name__ == "__main__":
    sys.exit(run_verb(main))
