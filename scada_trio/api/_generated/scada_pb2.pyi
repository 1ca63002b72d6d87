from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class QueryReadingsRequest(_message.Message):
    __slots__ = ("tenant_id", "well_id", "start_time", "end_time")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    WELL_ID_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    well_id: str
    start_time: int
    end_time: int
    def __init__(self, tenant_id: _Optional[str] = ..., well_id: _Optional[str] = ..., start_time: _Optional[int] = ..., end_time: _Optional[int] = ...) -> None: ...

class QueryReadingsResponse(_message.Message):
    __slots__ = ("readings",)
    READINGS_FIELD_NUMBER: _ClassVar[int]
    readings: _containers.RepeatedCompositeFieldContainer[Reading]
    def __init__(self, readings: _Optional[_Iterable[_Union[Reading, _Mapping]]] = ...) -> None: ...

class Reading(_message.Message):
    __slots__ = ("well_id", "tag_node_id", "timestamp", "value", "quality")
    WELL_ID_FIELD_NUMBER: _ClassVar[int]
    TAG_NODE_ID_FIELD_NUMBER: _ClassVar[int]
    TIMESTAMP_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    QUALITY_FIELD_NUMBER: _ClassVar[int]
    well_id: str
    tag_node_id: str
    timestamp: int
    value: float
    quality: str
    def __init__(self, well_id: _Optional[str] = ..., tag_node_id: _Optional[str] = ..., timestamp: _Optional[int] = ..., value: _Optional[float] = ..., quality: _Optional[str] = ...) -> None: ...

class GetAggregatorStatsRequest(_message.Message):
    __slots__ = ("tenant_id",)
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    def __init__(self, tenant_id: _Optional[str] = ...) -> None: ...

class GetAggregatorStatsResponse(_message.Message):
    __slots__ = ("tenant_id", "buffer_size", "time_since_last_flush_ms")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    BUFFER_SIZE_FIELD_NUMBER: _ClassVar[int]
    TIME_SINCE_LAST_FLUSH_MS_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    buffer_size: int
    time_since_last_flush_ms: int
    def __init__(self, tenant_id: _Optional[str] = ..., buffer_size: _Optional[int] = ..., time_since_last_flush_ms: _Optional[int] = ...) -> None: ...

class AddConnectionRequest(_message.Message):
    __slots__ = ("connection_id", "tenant_id", "endpoint_url", "security_mode", "security_policy", "username", "password", "tags")
    CONNECTION_ID_FIELD_NUMBER: _ClassVar[int]
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    ENDPOINT_URL_FIELD_NUMBER: _ClassVar[int]
    SECURITY_MODE_FIELD_NUMBER: _ClassVar[int]
    SECURITY_POLICY_FIELD_NUMBER: _ClassVar[int]
    USERNAME_FIELD_NUMBER: _ClassVar[int]
    PASSWORD_FIELD_NUMBER: _ClassVar[int]
    TAGS_FIELD_NUMBER: _ClassVar[int]
    connection_id: str
    tenant_id: str
    endpoint_url: str
    security_mode: str
    security_policy: str
    username: str
    password: str
    tags: _containers.RepeatedCompositeFieldContainer[TagMapping]
    def __init__(self, connection_id: _Optional[str] = ..., tenant_id: _Optional[str] = ..., endpoint_url: _Optional[str] = ..., security_mode: _Optional[str] = ..., security_policy: _Optional[str] = ..., username: _Optional[str] = ..., password: _Optional[str] = ..., tags: _Optional[_Iterable[_Union[TagMapping, _Mapping]]] = ...) -> None: ...

class TagMapping(_message.Message):
    __slots__ = ("tag_id", "well_id", "node_id", "data_type")
    TAG_ID_FIELD_NUMBER: _ClassVar[int]
    WELL_ID_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    DATA_TYPE_FIELD_NUMBER: _ClassVar[int]
    tag_id: str
    well_id: str
    node_id: str
    data_type: str
    def __init__(self, tag_id: _Optional[str] = ..., well_id: _Optional[str] = ..., node_id: _Optional[str] = ..., data_type: _Optional[str] = ...) -> None: ...

class AddConnectionResponse(_message.Message):
    __slots__ = ("success", "error")
    SUCCESS_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    success: bool
    error: str
    def __init__(self, success: _Optional[bool] = ..., error: _Optional[str] = ...) -> None: ...

class RemoveConnectionRequest(_message.Message):
    __slots__ = ("connection_id",)
    CONNECTION_ID_FIELD_NUMBER: _ClassVar[int]
    connection_id: str
    def __init__(self, connection_id: _Optional[str] = ...) -> None: ...

class RemoveConnectionResponse(_message.Message):
    __slots__ = ("success",)
    SUCCESS_FIELD_NUMBER: _ClassVar[int]
    success: bool
    def __init__(self, success: _Optional[bool] = ...) -> None: ...

class HealthCheckRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class HealthCheckResponse(_message.Message):
    __slots__ = ("status", "active_connections", "active_tenants")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    ACTIVE_CONNECTIONS_FIELD_NUMBER: _ClassVar[int]
    ACTIVE_TENANTS_FIELD_NUMBER: _ClassVar[int]
    status: str
    active_connections: int
    active_tenants: int
    def __init__(self, status: _Optional[str] = ..., active_connections: _Optional[int] = ..., active_tenants: _Optional[int] = ...) -> None: ...

class GetConnectionRequest(_message.Message):
    __slots__ = ("connection_id",)
    CONNECTION_ID_FIELD_NUMBER: _ClassVar[int]
    connection_id: str
    def __init__(self, connection_id: _Optional[str] = ...) -> None: ...

class GetConnectionResponse(_message.Message):
    __slots__ = ("connection_id", "tenant_id", "name", "endpoint_url", "state", "since", "attempts_failed", "last_error", "last_error_type", "tags_monitored", "tags_refused", "readings", "last_reading_time", "unstorable", "losses")
    class UnstorableEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    CONNECTION_ID_FIELD_NUMBER: _ClassVar[int]
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    ENDPOINT_URL_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    SINCE_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_FAILED_FIELD_NUMBER: _ClassVar[int]
    LAST_ERROR_FIELD_NUMBER: _ClassVar[int]
    LAST_ERROR_TYPE_FIELD_NUMBER: _ClassVar[int]
    TAGS_MONITORED_FIELD_NUMBER: _ClassVar[int]
    TAGS_REFUSED_FIELD_NUMBER: _ClassVar[int]
    READINGS_FIELD_NUMBER: _ClassVar[int]
    LAST_READING_TIME_FIELD_NUMBER: _ClassVar[int]
    UNSTORABLE_FIELD_NUMBER: _ClassVar[int]
    LOSSES_FIELD_NUMBER: _ClassVar[int]
    connection_id: str
    tenant_id: str
    name: str
    endpoint_url: str
    state: str
    since: int
    attempts_failed: int
    last_error: str
    last_error_type: str
    tags_monitored: int
    tags_refused: _containers.RepeatedCompositeFieldContainer[RefusedTag]
    readings: int
    last_reading_time: int
    unstorable: _containers.ScalarMap[str, int]
    losses: _containers.RepeatedCompositeFieldContainer[Loss]
    def __init__(self, connection_id: _Optional[str] = ..., tenant_id: _Optional[str] = ..., name: _Optional[str] = ..., endpoint_url: _Optional[str] = ..., state: _Optional[str] = ..., since: _Optional[int] = ..., attempts_failed: _Optional[int] = ..., last_error: _Optional[str] = ..., last_error_type: _Optional[str] = ..., tags_monitored: _Optional[int] = ..., tags_refused: _Optional[_Iterable[_Union[RefusedTag, _Mapping]]] = ..., readings: _Optional[int] = ..., last_reading_time: _Optional[int] = ..., unstorable: _Optional[_Mapping[str, int]] = ..., losses: _Optional[_Iterable[_Union[Loss, _Mapping]]] = ...) -> None: ...

class RefusedTag(_message.Message):
    __slots__ = ("node_id", "status")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    status: str
    def __init__(self, node_id: _Optional[str] = ..., status: _Optional[str] = ...) -> None: ...

class Loss(_message.Message):
    __slots__ = ("reason", "from_time_us", "to_time_us", "count", "detail")
    REASON_FIELD_NUMBER: _ClassVar[int]
    FROM_TIME_US_FIELD_NUMBER: _ClassVar[int]
    TO_TIME_US_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    reason: str
    from_time_us: int
    to_time_us: int
    count: int
    detail: str
    def __init__(self, reason: _Optional[str] = ..., from_time_us: _Optional[int] = ..., to_time_us: _Optional[int] = ..., count: _Optional[int] = ..., detail: _Optional[str] = ...) -> None: ...
