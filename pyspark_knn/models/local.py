"""Models that can be loaded in a process without Spark."""

from __future__ import annotations

from pathlib import PurePath
from typing import TYPE_CHECKING, TypeVar

from pyspark_knn.models.placed import PlacedModel

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

M = TypeVar("M", bound="LoadsWithoutSpark")


class LoadsWithoutSpark(PlacedModel):
    """A model with a search on the driver, which needs no Spark session."""

    @classmethod
    def loadWithoutSpark(cls: type[M], path: str, filesystem: FileSystem | None = None) -> M:
        """Load a saved model in a Python process without Spark, for example in a web service.

        It starts no Spark session and needs no Java: the files are read by pyarrow, and checked as
        `load` checks them. The index is in the memory of this process, also that of a sharded
        model. What runs on the driver works: ``kneighbors`` of a search model, ``predict`` of a
        classifier or a regressor, and ``toSklearn``, with the results of the model that was saved.

        Parameters
        ----------
        path : str
            The folder of the saved model: a local one, or a URI that pyarrow supports, such as
            ``s3://bucket/model`` or ``hdfs://host/model``. The model in a saved pipeline is one of
            the folders in ``stages``.
        filesystem : pyarrow.fs.FileSystem, optional
            The file system of `path`, such as one of fsspec. By default the one that `path` names.

        Returns
        -------
        object
            The model, an instance of this class.

        Raises
        ------
        FileNotFoundError
            If there is no saved model at `path`.
        ValueError
            As `load`. Also if the model is both sharded and approximate: the recall of its shards
            does not hold for an index of all items.
        """
        from pyspark_knn.persistence.local import LocalReader

        model: M = LocalReader(cls, filesystem).load(
            str(path) if isinstance(path, PurePath) else path
        )
        return model
