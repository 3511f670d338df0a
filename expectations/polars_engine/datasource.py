"""The data source ``polars``: defining the class adds ``context.data_sources.add_polars``, as GX wants it."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import polars as pl
from great_expectations.compatibility.pydantic import Field
from great_expectations.core.batch import LegacyBatchDefinition
from great_expectations.core.batch_definition import BatchDefinition
from great_expectations.core.batch_spec import RuntimeDataBatchSpec
from great_expectations.core.id_dict import IDDict
from great_expectations.datasource.fluent.batch_identifier_util import make_batch_identifier
from great_expectations.datasource.fluent.batch_request import BatchRequest
from great_expectations.datasource.fluent.interfaces import Batch, DataAsset, Datasource

from expectations.polars_engine.engine import PolarsExecutionEngine
from features.errors import InvalidInput

AssetTypes = list[type[DataAsset[Any, Any]]]
EngineType = type[PolarsExecutionEngine]  # a data source has a field called type


class PolarsFrameAsset(DataAsset[Any, Any]):
    """A frame that is handed over whole, as a LazyFrame or DataFrame, with every request for a batch."""

    type: Literal["dataframe"] = "dataframe"

    def test_connection(self) -> None:
        """Nothing to connect to."""

    def get_batch_parameters_keys(self, partitioner: Any = None) -> tuple[str, ...]:
        """The one parameter."""
        del partitioner
        return ("dataframe",)

    def build_batch_request(
        self, options: dict[str, Any] | None = None, batch_slice: Any = None, partitioner: Any = None
    ) -> BatchRequest[Any]:
        """A request for the batch that is the frame in ``options``."""
        if batch_slice is not None or partitioner is not None:
            raise InvalidInput("a Polars frame is one batch: leave batch_slice and partitioner out")
        request = BatchRequest(datasource_name=self.datasource.name, data_asset_name=self.name, options=options or {})
        self._validate_batch_request(request)
        return request

    def _validate_batch_request(self, batch_request: BatchRequest[Any]) -> None:
        options = batch_request.options
        if set(options) != {"dataframe"} or not isinstance(options["dataframe"], pl.DataFrame | pl.LazyFrame):
            raise InvalidInput("a Polars batch is asked for by its frame alone; give {'dataframe': frame}")

    def get_batch_identifiers_list(self, batch_request: BatchRequest[Any]) -> list[dict[str, Any]]:
        """What tells the batch from others: nothing but the frame."""
        return [IDDict(batch_request.options)]

    def get_batch(self, batch_request: BatchRequest[Any]) -> Batch:
        """The frame as a batch."""
        self._validate_batch_request(batch_request)
        spec = RuntimeDataBatchSpec(batch_data=batch_request.options["dataframe"])
        data, markers = self.datasource.get_execution_engine().get_batch_data_and_markers(batch_spec=spec)
        return Batch(
            datasource=self.datasource,
            data_asset=self,
            batch_request=batch_request,
            data=data,
            metadata=self._get_batch_metadata_from_batch_request(batch_request, ignore_options=("dataframe",)),
            batch_markers=markers,
            batch_spec=spec,
            batch_definition=LegacyBatchDefinition(
                datasource_name=self.datasource.name,
                data_connector_name="fluent",
                data_asset_name=self.name,
                batch_identifiers=make_batch_identifier(batch_request.options),
            ),
        )

    def add_batch_definition_whole_dataframe(self, name: str) -> BatchDefinition[Any]:
        """A definition of batches that are whole frames."""
        return self.add_batch_definition(name=name, partitioner=None)


class PolarsDatasource(Datasource[Any, PolarsExecutionEngine]):
    """Batches of Polars frames, judged by the Polars engine."""

    asset_types: ClassVar[AssetTypes] = [PolarsFrameAsset]
    type: Literal["polars"] = "polars"
    assets: list[PolarsFrameAsset] = Field(default_factory=list)

    @property
    def execution_engine_type(self) -> EngineType:
        """The Polars engine."""
        return PolarsExecutionEngine

    def test_connection(self, test_assets: bool = True) -> None:
        """Nothing to connect to."""

    def add_dataframe_asset(self, name: str) -> PolarsFrameAsset:
        """Add an asset for frames."""
        asset = PolarsFrameAsset(name=name)
        self._add_asset(asset)
        return asset
