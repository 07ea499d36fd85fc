"""`Table`: pydantic models as rows of a real database, by primary key.

Owns how the rows follow the store, and what counts as somebody else's change. Promises: handlers read memory, never the
database; rows are written after durability, in groups, with the seq in the same transaction; a row that the store did not
leave as it is gets into the journal before it is overwritten. Must never touch the database but in `persisted` and behind
it.
"""

from __future__ import annotations

import base64
import datetime
import json
import math
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Generic, TypeVar

from pydantic import BaseModel

from seqtor.actors.journal.encoding import json_of, model_json
from seqtor.actors.registering import registering
from seqtor.actors.stores.access import Access
from seqtor.actors.stores.collection import (
    DELETED,
    Collection,
    CollectionState,
    CollectionView,
    collection_of,
    resolve,
)
from seqtor.actors.stores.contract import StoreActor, StoreSpec
from seqtor.actors.stores.invariants import Each, Invariants
from seqtor.actors.stores.model_kind import ModelKind
from seqtor.actors.stores.table_rows import JSON_TEXT, OWN_COLUMNS, Found, Rows, kind_of_column, require_column
from seqtor.messages.errors import RegistrationError, Rejected
from seqtor.messages.outside import encoded
from seqtor.messages.stores import Checkpoint, Commit, Write

__all__ = ["Table", "TableStore"]

ModelT = TypeVar("ModelT", bound=BaseModel)
Values = dict[str, Any]


class RowShape(Generic[ModelT]):
    """How a model is a row: the kind of each column, by field."""

    def __init__(self, model: type[ModelT]) -> None:
        self.columns = {
            name: kind_of_column(_without_none(field.annotation)) for name, field in model.model_fields.items()
        }
        self._native = {name: kind for name, kind in self.columns.items() if kind != JSON_TEXT}
        self._texts = [name for name, kind in self.columns.items() if kind == JSON_TEXT]

    def require(self, key: str, value: ModelT) -> None:
        """Raise ValueError for what a database would not take."""
        require_column("str", "the key", key)
        for name, kind in self._native.items():
            held = getattr(value, name)
            if held is not None:
                require_column(kind, name, held)

    def values_of(self, value: ModelT) -> Values:
        """The row of a model."""
        values = {name: getattr(value, name) for name in self._native}
        if self._texts:
            fields = json.loads(model_json(value))
            values.update({name: None if fields[name] is None else json_of(fields[name]) for name in self._texts})
        return {name: values[name] for name in self.columns}

    def content_of(self, values: Values) -> Values:
        """A row as JSON by field, from which a model can be made; of what somebody has written into it, as it is."""
        return {name: self._part(kind, values[name]) for name, kind in self.columns.items()}

    @staticmethod
    def _part(kind: str, value: Any) -> Any:
        if isinstance(value, bytes):
            return base64.urlsafe_b64encode(value).decode()
        if isinstance(value, float) and not math.isfinite(value):
            return str(value)
        if kind == JSON_TEXT and isinstance(value, str):
            try:
                return json.loads(value)
            except ValueError:
                return value
        return value


class TableStore(StoreActor[CollectionState[ModelT], CollectionView[ModelT]]):
    """The behaviour: keeps the rows as the journal says."""

    dispatcher: ClassVar[Any] = "dedicated"

    def __init__(
        self, kind: ModelKind[ModelT], shape: RowShape[ModelT], rows: Rows, look_every_s: float | None
    ) -> None:
        self.look_every_s = look_every_s
        self._kind = kind
        self._shape = shape
        self._rows = rows
        self._seq = 0
        self._present: set[str] = set()  # Rows that are known to be there.
        self._seen: set[tuple[str, str]] = (
            set()
        )  # Versions of others that the journal has: the key, and the row as JSON.

    def recover(self, checkpoint: Checkpoint | None) -> CollectionState[ModelT]:
        return collection_of(self._kind, {}, checkpoint)

    def persisted(self) -> int:
        self._seq = self._rows.open(self.journal_id)
        return self._seq

    def persist(self, commits: Sequence[Commit]) -> None:
        last: dict[str, tuple[int, Values | None]] = {}
        known: dict[str, list[Values | None]] = {}
        for commit in commits:
            for key, value in commit.writes:
                values = None if value is DELETED else self._shape.values_of(value)
                last[key] = (commit.seq, values)
                known.setdefault(key, []).append(values)
        self._bring(last, commits[-1].seq, known)

    def look(self) -> None:
        found = self._rows.read()
        self._present = set(found)
        entries = self.settled.entries
        owed = []
        for key in {*found, *entries}:
            there, value = found.get(key), entries.get(key)
            if (None if there is None else there.values) == (None if value is None else self._shape.values_of(value)):
                continue
            if (key, self._told(there)) in self._seen:
                owed.append(key)
            else:
                self.edited_outside(key, self._content(there))
        self._restore(owed)

    def edit_ended(self, key: str, content: Any) -> None:
        self._seen.add((key, json_of(encoded(content))))
        self._restore([key])

    def close(self) -> None:
        self._rows.close()

    @staticmethod
    def fold(state: CollectionState[ModelT], writes: Sequence[Write]) -> CollectionState[ModelT]:
        return resolve(state, writes)[0]

    @staticmethod
    def view(access: Access[CollectionState[ModelT]]) -> CollectionView[ModelT]:
        return CollectionView(access)

    def _restore(self, keys: Iterable[str]) -> None:
        """Have rows as the store says, unless somebody else has changed them once more."""
        entries = self.settled.entries
        versions = {
            key: (self._seq, None if entries.get(key) is None else self._shape.values_of(entries[key])) for key in keys
        }
        if versions:
            self._bring(versions, self._seq, {})

    def _bring(
        self, versions: Mapping[str, tuple[int, Values | None]], seq: int, known: Mapping[str, list[Values | None]]
    ) -> None:
        kept: dict[str, Found | None] = {}

        def may_replace(key: str, there: Found | None) -> bool:
            values = None if there is None else there.values
            may = values == versions[key][1] or values in known.get(key, ()) or (key, self._told(there)) in self._seen
            may = may or (there is None and key not in self._present)
            if not may:
                kept[key] = there
            return may

        self._rows.write(versions, seq, may_replace)
        self._seq = seq
        for key, (_, values) in versions.items():
            if key in kept:
                self.edited_outside(key, self._content(kept[key]))
            elif values is None:
                self._present.discard(key)
            else:
                self._present.add(key)

    def _content(self, there: Found | None) -> Any:
        return None if there is None else self._shape.content_of(there.values)

    def _told(self, there: Found | None) -> str:
        return json_of(encoded(self._content(there)))


class Table(Collection[ModelT], Generic[ModelT]):
    """The recipe of a table: `system.store("orders", Table("postgresql://...", Order))`.

    `url` is a database's as SQLAlchemy takes it. The table (default: the model's name in small letters) is made if it is not
    there; it has the primary key in the column `key`, one column for each field (numbers, texts, truth values and bytes as
    such, all else as JSON text), and two of the store's own. Rows that are there at the first start are adopted, and so is
    what others change; they are looked for at the start, where the store writes, and every `look_every` seconds, if that is
    given: that reads the whole table. Views and `invariants` are those of a `Collection`.
    Raises RegistrationError for what cannot be meant.
    """

    def __init__(
        self,
        url: str,
        model: type[ModelT],
        *,
        table: str | None = None,
        key: str = "key",
        look_every: float | datetime.timedelta | None = None,
        invariants: Iterable[Callable[[Mapping[str, ModelT]], bool | None] | Each[ModelT]] = (),
    ) -> None:
        with registering():
            if not isinstance(url, str) or "://" not in url:
                raise RegistrationError(f"Table takes the URL of a database, such as sqlite:///desk.db, got {url!r}")
            self.kind = ModelKind(model, Invariants(invariants, keyed=True))
            if key in model.model_fields:
                raise RegistrationError(
                    f"{model.__name__} has a field {key!r}, and so is the column of the primary key called: pass key="
                )
            own = next((name for name in OWN_COLUMNS if name == key or name in model.model_fields), None)
            if own is not None:
                raise RegistrationError(f"{model.__name__}: the column {own} is the store's own: call yours otherwise")
            every_s = look_every.total_seconds() if isinstance(look_every, datetime.timedelta) else look_every
            if every_s is not None and (isinstance(every_s, bool) or not 0 < every_s < math.inf):
                raise RegistrationError(f"look_every must be seconds above 0, a timedelta or None, got {look_every!r}")
            self.row_shape: RowShape[ModelT] = RowShape(model)
            rows = Rows(url, table or model.__name__.lower(), key, self.row_shape.columns)
            StoreSpec.__init__(self, TableStore, self.kind, self.row_shape, rows, every_s)
            self.own_path = rows.file
            self.view = CollectionView
            self.version = self.kind.version
            self.needs_judge = self.kind.validates or bool(self.kind.invariants)

    def resolve(
        self, state: CollectionState[ModelT], writes: Sequence[Write]
    ) -> tuple[CollectionState[ModelT], Sequence[Write]]:
        new, effective = resolve(state, writes)
        for key, value in effective:
            if value is not DELETED:
                self.row_shape.require(key, value)
        return new, effective

    def write_of(self, key: str, value: Any, version: int, where: str) -> Write:
        return Write(key, DELETED if value is None else self.kind.from_json(value, version, f"{where}, key {key!r}"))

    def whole(self, state: CollectionState[ModelT]) -> Sequence[Write]:
        return [Write(key, state.entries[key]) for key in state.keys]

    def adopt(self, access: Access[Any], key: str, content: Any) -> None:
        """Take over a row of somebody else; one that does not fit the model is refused."""
        if content is None:
            access.put(Write(key, DELETED))
            return
        try:
            value = self.kind.from_json(content, self.kind.version, f"the row {key!r}")
        except RegistrationError as error:
            raise Rejected(f"the row cannot be adopted: {error}") from error
        access.put(Write(key, value))


def _without_none(annotation: Any) -> Any:
    """The type of an optional field; the annotation itself for all others."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        parts = [part for part in typing.get_args(annotation) if part is not type(None)]
        if len(parts) == 1:
            return parts[0]
    return annotation
