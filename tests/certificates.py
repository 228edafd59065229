"""Certificates of an authority that is made for the test."""

from dataclasses import dataclass
from pathlib import Path

import trustme


@dataclass(frozen=True)
class Files:
    """PEM files of an authority and of a pair that it signed for 127.0.0.1."""

    ca: Path
    cert: Path
    key: Path


def write_files(folder: Path) -> Files:
    folder.mkdir()
    authority = trustme.CA()
    pair = authority.issue_cert("127.0.0.1", "localhost")
    files = Files(folder / "ca.pem", folder / "cert.pem", folder / "key.pem")
    authority.cert_pem.write_to_path(str(files.ca))
    pair.private_key_pem.write_to_path(str(files.key))
    for index, blob in enumerate(pair.cert_chain_pems):
        blob.write_to_path(str(files.cert), append=index > 0)
    return files
