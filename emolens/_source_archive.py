"""A script: fetch a source archive as it is, with pip's own client, so that its index, proxy and certificates count.

pip's commands read what a source archive says of itself by running its `setup.py`. Nothing of it is run here.

    python _source_archive.py PROJECT VERSION FOLDER
"""

import sys
from pathlib import Path
from typing import Any

from pip._internal.commands import create_command


def main(project: str, version: str, folder: str) -> None:
    """Write the archive of this version to the folder; exits with a message where there is none."""
    command: Any = create_command("download")
    options, _ = command.parse_args(["--no-binary=:all:", "--no-cache-dir", "--no-input", project])
    with command.main_context():
        session = command.get_default_session(options)
        finder = command._build_package_finder(options=options, session=session)
        found = [one for one in finder.find_all_candidates(project) if str(one.version) == version]
        archives = [one.link for one in found if one.link.filename.endswith((".tar.gz", ".zip"))]
        if not archives:
            sys.exit(f"No matching distribution found for {project}=={version}, as a source archive")
        response = session.get(archives[0].url.partition("#")[0], headers={"Accept-Encoding": "identity"})
        response.raise_for_status()
        (Path(folder) / Path(archives[0].filename).name).write_bytes(response.content)


if __name__ == "__main__":
    main(*sys.argv[1:])
