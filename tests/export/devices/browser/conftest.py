"""LiteRT.js, and files of every kind with a batch of one sample, as several tests of this folder use them."""

from __future__ import annotations

import pytest

from r2keras.export.conversion import converter
from tests import litert_js as helper
from tests.export.conversions import once


@pytest.fixture(scope="session")
def litert_js():
    """The folder in which npm has installed LiteRT.js; tests are skipped where it cannot."""
    try:
        return helper.packages()
    except helper.Unavailable as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def small_files(tmp_path_factory):
    """Returns paths of the files of one net, by form."""
    from tests.export.devices.browser.forms import write_forms

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(converter, "_converted", once(converter._converted))
        return write_forms(tmp_path_factory.mktemp("files"))
