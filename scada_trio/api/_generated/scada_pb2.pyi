from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Order(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ORDER_NEWEST_FIRST: _ClassVar[Order]
    ORDER_OLDEST_FIRST: _ClassVar[Order]

class Resolution(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RESOLUTION_AUTO: _ClassVar[Resolution]
    RESOLUTION_HOURLY: _ClassVar[Resolution]
    RESOLUTION_DAILY: _ClassVar[Resolution]
    RESOLUTION_MONTHLY: _ClassVar[Resolution]

class BrowseOrder(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    BROWSE_ORDER_DEPTH_FIRST: _ClassVar[BrowseOrder]
    BROWSE_ORDER_BREADTH_FIRST: _ClassVar[BrowseOrder]
ORDER_NEWEST_FIRST: Order
ORDER_OLDEST_FIRST: Order
RESOLUTION_AUTO: Resolution
RESOLUTION_HOURLY: Resolution
RESOLUTION_DAILY: Resolution
RESOLUTION_MONTHLY: Resolution
BROWSE_ORDER_DEPTH_FIRST: BrowseOrder
BROWSE_ORDER_BREADTH_FIRST: BrowseOrder

class QueryReadingsRequest(_message.Message):
    __slots__ = ("tenant_id", "well_id", "start_time", "end_time", "limit", "page_token", "tag_node_ids", "order", "start_time_us", "end_time_us")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    WELL_ID_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    TAG_NODE_IDS_FIELD_NUMBER: _ClassVar[int]
    ORDER_FIELD_NUMBER: _ClassVar[int]
    START_TIME_US_FIELD_NUMBER: _ClassVar[int]
    END_TIME_US_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    well_id: str
    start_time: int
    end_time: int
    limit: int
    page_token: str
    tag_node_ids: _containers.RepeatedScalarFieldContainer[str]
    order: Order
    start_time_us: int
    end_time_us: int
    def __init__(self, tenant_id: _Optional[str] = ..., well_id: _Optional[str] = ..., start_time: _Optional[int] = ..., end_time: _Optional[int] = ..., limit: _Optional[int] = ..., page_token: _Optional[str] = ..., tag_node_ids: _Optional[_Iterable[str]] = ..., order: _Optional[_Union[Order, str]] = ..., start_time_us: _Optional[int] = ..., end_time_us: _Optional[int] = ...) -> None: ...

class QueryReadingsResponse(_message.Message):
    __slots__ = ("readings", "next_page_token")
    READINGS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    readings: _containers.RepeatedCompositeFieldContainer[Reading]
    next_page_token: str
    def __init__(self, readings: _Optional[_Iterable[_Union[Reading, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class Reading(_message.Message):
    __slots__ = ("well_id", "tag_node_id", "timestamp", "value", "quality", "timestamp_us")
    WELL_ID_FIELD_NUMBER: _ClassVar[int]
    TAG_NODE_ID_FIELD_NUMBER: _ClassVar[int]
    TIMESTAMP_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    QUALITY_FIELD_NUMBER: _ClassVar[int]
    TIMESTAMP_US_FIELD_NUMBER: _ClassVar[int]
    well_id: str
    tag_node_id: str
    timestamp: int
    value: float
    quality: str
    timestamp_us: int
    def __init__(self, well_id: _Optional[str] = ..., tag_node_id: _Optional[str] = ..., timestamp: _Optional[int] = ..., value: _Optional[float] = ..., quality: _Optional[str] = ..., timestamp_us: _Optional[int] = ...) -> None: ...

class StreamReadingsRequest(_message.Message):
    __slots__ = ("tenant_id", "well_id", "start_time_us", "end_time_us", "tag_node_ids", "order")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    WELL_ID_FIELD_NUMBER: _ClassVar[int]
    START_TIME_US_FIELD_NUMBER: _ClassVar[int]
    END_TIME_US_FIELD_NUMBER: _ClassVar[int]
    TAG_NODE_IDS_FIELD_NUMBER: _ClassVar[int]
    ORDER_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    well_id: str
    start_time_us: int
    end_time_us: int
    tag_node_ids: _containers.RepeatedScalarFieldContainer[str]
    order: Order
    def __init__(self, tenant_id: _Optional[str] = ..., well_id: _Optional[str] = ..., start_time_us: _Optional[int] = ..., end_time_us: _Optional[int] = ..., tag_node_ids: _Optional[_Iterable[str]] = ..., order: _Optional[_Union[Order, str]] = ...) -> None: ...

class StreamReadingsResponse(_message.Message):
    __slots__ = ("readings",)
    READINGS_FIELD_NUMBER: _ClassVar[int]
    readings: _containers.RepeatedCompositeFieldContainer[Reading]
    def __init__(self, readings: _Optional[_Iterable[_Union[Reading, _Mapping]]] = ...) -> None: ...

class SubscribeReadingsRequest(_message.Message):
    __slots__ = ("tenant_id", "well_ids", "tag_node_ids")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    WELL_IDS_FIELD_NUMBER: _ClassVar[int]
    TAG_NODE_IDS_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    well_ids: _containers.RepeatedScalarFieldContainer[str]
    tag_node_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, tenant_id: _Optional[str] = ..., well_ids: _Optional[_Iterable[str]] = ..., tag_node_ids: _Optional[_Iterable[str]] = ...) -> None: ...

class SubscribeReadingsResponse(_message.Message):
    __slots__ = ("readings", "missed")
    READINGS_FIELD_NUMBER: _ClassVar[int]
    MISSED_FIELD_NUMBER: _ClassVar[int]
    readings: _containers.RepeatedCompositeFieldContainer[Reading]
    missed: int
    def __init__(self, readings: _Optional[_Iterable[_Union[Reading, _Mapping]]] = ..., missed: _Optional[int] = ...) -> None: ...

class QueryAggregatesRequest(_message.Message):
    __slots__ = ("tenant_id", "well_id", "start_time_us", "end_time_us", "tag_node_ids", "resolution", "max_points", "limit", "page_token")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    WELL_ID_FIELD_NUMBER: _ClassVar[int]
    START_TIME_US_FIELD_NUMBER: _ClassVar[int]
    END_TIME_US_FIELD_NUMBER: _ClassVar[int]
    TAG_NODE_IDS_FIELD_NUMBER: _ClassVar[int]
    RESOLUTION_FIELD_NUMBER: _ClassVar[int]
    MAX_POINTS_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    well_id: str
    start_time_us: int
    end_time_us: int
    tag_node_ids: _containers.RepeatedScalarFieldContainer[str]
    resolution: Resolution
    max_points: int
    limit: int
    page_token: str
    def __init__(self, tenant_id: _Optional[str] = ..., well_id: _Optional[str] = ..., start_time_us: _Optional[int] = ..., end_time_us: _Optional[int] = ..., tag_node_ids: _Optional[_Iterable[str]] = ..., resolution: _Optional[_Union[Resolution, str]] = ..., max_points: _Optional[int] = ..., limit: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class QueryAggregatesResponse(_message.Message):
    __slots__ = ("resolution", "aggregates", "next_page_token")
    RESOLUTION_FIELD_NUMBER: _ClassVar[int]
    AGGREGATES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    resolution: Resolution
    aggregates: _containers.RepeatedCompositeFieldContainer[Aggregate]
    next_page_token: str
    def __init__(self, resolution: _Optional[_Union[Resolution, str]] = ..., aggregates: _Optional[_Iterable[_Union[Aggregate, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class Aggregate(_message.Message):
    __slots__ = ("tag_node_id", "bucket_start_us", "avg", "min", "max", "stddev", "count", "uncertain_count", "bad_count", "total_count")
    TAG_NODE_ID_FIELD_NUMBER: _ClassVar[int]
    BUCKET_START_US_FIELD_NUMBER: _ClassVar[int]
    AVG_FIELD_NUMBER: _ClassVar[int]
    MIN_FIELD_NUMBER: _ClassVar[int]
    MAX_FIELD_NUMBER: _ClassVar[int]
    STDDEV_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    UNCERTAIN_COUNT_FIELD_NUMBER: _ClassVar[int]
    BAD_COUNT_FIELD_NUMBER: _ClassVar[int]
    TOTAL_COUNT_FIELD_NUMBER: _ClassVar[int]
    tag_node_id: str
    bucket_start_us: int
    avg: float
    min: float
    max: float
    stddev: float
    count: int
    uncertain_count: int
    bad_count: int
    total_count: int
    def __init__(self, tag_node_id: _Optional[str] = ..., bucket_start_us: _Optional[int] = ..., avg: _Optional[float] = ..., min: _Optional[float] = ..., max: _Optional[float] = ..., stddev: _Optional[float] = ..., count: _Optional[int] = ..., uncertain_count: _Optional[int] = ..., bad_count: _Optional[int] = ..., total_count: _Optional[int] = ...) -> None: ...

class LatestReadingsRequest(_message.Message):
    __slots__ = ("tenant_id", "well_ids", "tag_node_ids")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    WELL_IDS_FIELD_NUMBER: _ClassVar[int]
    TAG_NODE_IDS_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    well_ids: _containers.RepeatedScalarFieldContainer[str]
    tag_node_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, tenant_id: _Optional[str] = ..., well_ids: _Optional[_Iterable[str]] = ..., tag_node_ids: _Optional[_Iterable[str]] = ...) -> None: ...

class LatestReadingsResponse(_message.Message):
    __slots__ = ("readings",)
    READINGS_FIELD_NUMBER: _ClassVar[int]
    readings: _containers.RepeatedCompositeFieldContainer[Reading]
    def __init__(self, readings: _Optional[_Iterable[_Union[Reading, _Mapping]]] = ...) -> None: ...

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
    __slots__ = ("connection_id", "tenant_id", "endpoint_url", "security_mode", "security_policy", "username", "password", "tags", "name", "publishing_interval_ms", "sampling_interval_ms", "queue_size", "discard_oldest")
    CONNECTION_ID_FIELD_NUMBER: _ClassVar[int]
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    ENDPOINT_URL_FIELD_NUMBER: _ClassVar[int]
    SECURITY_MODE_FIELD_NUMBER: _ClassVar[int]
    SECURITY_POLICY_FIELD_NUMBER: _ClassVar[int]
    USERNAME_FIELD_NUMBER: _ClassVar[int]
    PASSWORD_FIELD_NUMBER: _ClassVar[int]
    TAGS_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    PUBLISHING_INTERVAL_MS_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_INTERVAL_MS_FIELD_NUMBER: _ClassVar[int]
    QUEUE_SIZE_FIELD_NUMBER: _ClassVar[int]
    DISCARD_OLDEST_FIELD_NUMBER: _ClassVar[int]
    connection_id: str
    tenant_id: str
    endpoint_url: str
    security_mode: str
    security_policy: str
    username: str
    password: str
    tags: _containers.RepeatedCompositeFieldContainer[TagMapping]
    name: str
    publishing_interval_ms: float
    sampling_interval_ms: float
    queue_size: int
    discard_oldest: bool
    def __init__(self, connection_id: _Optional[str] = ..., tenant_id: _Optional[str] = ..., endpoint_url: _Optional[str] = ..., security_mode: _Optional[str] = ..., security_policy: _Optional[str] = ..., username: _Optional[str] = ..., password: _Optional[str] = ..., tags: _Optional[_Iterable[_Union[TagMapping, _Mapping]]] = ..., name: _Optional[str] = ..., publishing_interval_ms: _Optional[float] = ..., sampling_interval_ms: _Optional[float] = ..., queue_size: _Optional[int] = ..., discard_oldest: _Optional[bool] = ...) -> None: ...

class TagMapping(_message.Message):
    __slots__ = ("tag_id", "well_id", "node_id", "data_type", "name", "unit", "scaling_factor", "deadband", "deadband_percent", "sampling_interval_ms", "queue_size", "discard_oldest")
    TAG_ID_FIELD_NUMBER: _ClassVar[int]
    WELL_ID_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    DATA_TYPE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    SCALING_FACTOR_FIELD_NUMBER: _ClassVar[int]
    DEADBAND_FIELD_NUMBER: _ClassVar[int]
    DEADBAND_PERCENT_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_INTERVAL_MS_FIELD_NUMBER: _ClassVar[int]
    QUEUE_SIZE_FIELD_NUMBER: _ClassVar[int]
    DISCARD_OLDEST_FIELD_NUMBER: _ClassVar[int]
    tag_id: str
    well_id: str
    node_id: str
    data_type: str
    name: str
    unit: str
    scaling_factor: float
    deadband: float
    deadband_percent: float
    sampling_interval_ms: float
    queue_size: int
    discard_oldest: bool
    def __init__(self, tag_id: _Optional[str] = ..., well_id: _Optional[str] = ..., node_id: _Optional[str] = ..., data_type: _Optional[str] = ..., name: _Optional[str] = ..., unit: _Optional[str] = ..., scaling_factor: _Optional[float] = ..., deadband: _Optional[float] = ..., deadband_percent: _Optional[float] = ..., sampling_interval_ms: _Optional[float] = ..., queue_size: _Optional[int] = ..., discard_oldest: _Optional[bool] = ...) -> None: ...

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
    __slots__ = ("connection_id", "tenant_id", "name", "endpoint_url", "state", "since", "attempts_failed", "last_error", "last_error_type", "tags_monitored", "tags_refused", "readings", "last_reading_time", "unstorable", "losses", "subscription", "items_revised", "revised_items", "items_unfiltered", "readings_per_second")
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
    SUBSCRIPTION_FIELD_NUMBER: _ClassVar[int]
    ITEMS_REVISED_FIELD_NUMBER: _ClassVar[int]
    REVISED_ITEMS_FIELD_NUMBER: _ClassVar[int]
    ITEMS_UNFILTERED_FIELD_NUMBER: _ClassVar[int]
    READINGS_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
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
    subscription: Subscription
    items_revised: int
    revised_items: _containers.RepeatedCompositeFieldContainer[RevisedItem]
    items_unfiltered: int
    readings_per_second: float
    def __init__(self, connection_id: _Optional[str] = ..., tenant_id: _Optional[str] = ..., name: _Optional[str] = ..., endpoint_url: _Optional[str] = ..., state: _Optional[str] = ..., since: _Optional[int] = ..., attempts_failed: _Optional[int] = ..., last_error: _Optional[str] = ..., last_error_type: _Optional[str] = ..., tags_monitored: _Optional[int] = ..., tags_refused: _Optional[_Iterable[_Union[RefusedTag, _Mapping]]] = ..., readings: _Optional[int] = ..., last_reading_time: _Optional[int] = ..., unstorable: _Optional[_Mapping[str, int]] = ..., losses: _Optional[_Iterable[_Union[Loss, _Mapping]]] = ..., subscription: _Optional[_Union[Subscription, _Mapping]] = ..., items_revised: _Optional[int] = ..., revised_items: _Optional[_Iterable[_Union[RevisedItem, _Mapping]]] = ..., items_unfiltered: _Optional[int] = ..., readings_per_second: _Optional[float] = ...) -> None: ...

class ListConnectionsRequest(_message.Message):
    __slots__ = ("tenant_id", "include_tags")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_TAGS_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    include_tags: bool
    def __init__(self, tenant_id: _Optional[str] = ..., include_tags: _Optional[bool] = ...) -> None: ...

class ListConnectionsResponse(_message.Message):
    __slots__ = ("connections",)
    CONNECTIONS_FIELD_NUMBER: _ClassVar[int]
    connections: _containers.RepeatedCompositeFieldContainer[ConnectionSummary]
    def __init__(self, connections: _Optional[_Iterable[_Union[ConnectionSummary, _Mapping]]] = ...) -> None: ...

class ConnectionSummary(_message.Message):
    __slots__ = ("connection_id", "name", "endpoint_url", "security_mode", "security_policy", "username", "active", "state", "since", "attempts_failed", "last_error", "last_error_type", "tags_configured", "tags_monitored", "tags_refused", "readings", "readings_per_second", "last_reading_time", "tags", "publishing_interval_ms", "sampling_interval_ms", "queue_size", "discard_oldest")
    CONNECTION_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    ENDPOINT_URL_FIELD_NUMBER: _ClassVar[int]
    SECURITY_MODE_FIELD_NUMBER: _ClassVar[int]
    SECURITY_POLICY_FIELD_NUMBER: _ClassVar[int]
    USERNAME_FIELD_NUMBER: _ClassVar[int]
    ACTIVE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    SINCE_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_FAILED_FIELD_NUMBER: _ClassVar[int]
    LAST_ERROR_FIELD_NUMBER: _ClassVar[int]
    LAST_ERROR_TYPE_FIELD_NUMBER: _ClassVar[int]
    TAGS_CONFIGURED_FIELD_NUMBER: _ClassVar[int]
    TAGS_MONITORED_FIELD_NUMBER: _ClassVar[int]
    TAGS_REFUSED_FIELD_NUMBER: _ClassVar[int]
    READINGS_FIELD_NUMBER: _ClassVar[int]
    READINGS_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    LAST_READING_TIME_FIELD_NUMBER: _ClassVar[int]
    TAGS_FIELD_NUMBER: _ClassVar[int]
    PUBLISHING_INTERVAL_MS_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_INTERVAL_MS_FIELD_NUMBER: _ClassVar[int]
    QUEUE_SIZE_FIELD_NUMBER: _ClassVar[int]
    DISCARD_OLDEST_FIELD_NUMBER: _ClassVar[int]
    connection_id: str
    name: str
    endpoint_url: str
    security_mode: str
    security_policy: str
    username: str
    active: bool
    state: str
    since: int
    attempts_failed: int
    last_error: str
    last_error_type: str
    tags_configured: int
    tags_monitored: int
    tags_refused: int
    readings: int
    readings_per_second: float
    last_reading_time: int
    tags: _containers.RepeatedCompositeFieldContainer[TagMapping]
    publishing_interval_ms: float
    sampling_interval_ms: float
    queue_size: int
    discard_oldest: bool
    def __init__(self, connection_id: _Optional[str] = ..., name: _Optional[str] = ..., endpoint_url: _Optional[str] = ..., security_mode: _Optional[str] = ..., security_policy: _Optional[str] = ..., username: _Optional[str] = ..., active: _Optional[bool] = ..., state: _Optional[str] = ..., since: _Optional[int] = ..., attempts_failed: _Optional[int] = ..., last_error: _Optional[str] = ..., last_error_type: _Optional[str] = ..., tags_configured: _Optional[int] = ..., tags_monitored: _Optional[int] = ..., tags_refused: _Optional[int] = ..., readings: _Optional[int] = ..., readings_per_second: _Optional[float] = ..., last_reading_time: _Optional[int] = ..., tags: _Optional[_Iterable[_Union[TagMapping, _Mapping]]] = ..., publishing_interval_ms: _Optional[float] = ..., sampling_interval_ms: _Optional[float] = ..., queue_size: _Optional[int] = ..., discard_oldest: _Optional[bool] = ...) -> None: ...

class ListTenantsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListTenantsResponse(_message.Message):
    __slots__ = ("tenants",)
    TENANTS_FIELD_NUMBER: _ClassVar[int]
    tenants: _containers.RepeatedCompositeFieldContainer[TenantSummary]
    def __init__(self, tenants: _Optional[_Iterable[_Union[TenantSummary, _Mapping]]] = ...) -> None: ...

class TenantSummary(_message.Message):
    __slots__ = ("tenant_id", "name", "status", "state", "connections", "connections_connected", "buffer_size", "readings_received", "readings_committed", "last_error")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    CONNECTIONS_FIELD_NUMBER: _ClassVar[int]
    CONNECTIONS_CONNECTED_FIELD_NUMBER: _ClassVar[int]
    BUFFER_SIZE_FIELD_NUMBER: _ClassVar[int]
    READINGS_RECEIVED_FIELD_NUMBER: _ClassVar[int]
    READINGS_COMMITTED_FIELD_NUMBER: _ClassVar[int]
    LAST_ERROR_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    name: str
    status: str
    state: str
    connections: int
    connections_connected: int
    buffer_size: int
    readings_received: int
    readings_committed: int
    last_error: str
    def __init__(self, tenant_id: _Optional[str] = ..., name: _Optional[str] = ..., status: _Optional[str] = ..., state: _Optional[str] = ..., connections: _Optional[int] = ..., connections_connected: _Optional[int] = ..., buffer_size: _Optional[int] = ..., readings_received: _Optional[int] = ..., readings_committed: _Optional[int] = ..., last_error: _Optional[str] = ...) -> None: ...

class UpdateConnectionTagsRequest(_message.Message):
    __slots__ = ("connection_id", "tenant_id", "tags", "remove_tag_ids", "replace")
    CONNECTION_ID_FIELD_NUMBER: _ClassVar[int]
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    TAGS_FIELD_NUMBER: _ClassVar[int]
    REMOVE_TAG_IDS_FIELD_NUMBER: _ClassVar[int]
    REPLACE_FIELD_NUMBER: _ClassVar[int]
    connection_id: str
    tenant_id: str
    tags: _containers.RepeatedCompositeFieldContainer[TagMapping]
    remove_tag_ids: _containers.RepeatedScalarFieldContainer[str]
    replace: bool
    def __init__(self, connection_id: _Optional[str] = ..., tenant_id: _Optional[str] = ..., tags: _Optional[_Iterable[_Union[TagMapping, _Mapping]]] = ..., remove_tag_ids: _Optional[_Iterable[str]] = ..., replace: _Optional[bool] = ...) -> None: ...

class UpdateConnectionTagsResponse(_message.Message):
    __slots__ = ("tags_configured",)
    TAGS_CONFIGURED_FIELD_NUMBER: _ClassVar[int]
    tags_configured: int
    def __init__(self, tags_configured: _Optional[int] = ...) -> None: ...

class RestartConnectionRequest(_message.Message):
    __slots__ = ("connection_id", "tenant_id")
    CONNECTION_ID_FIELD_NUMBER: _ClassVar[int]
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    connection_id: str
    tenant_id: str
    def __init__(self, connection_id: _Optional[str] = ..., tenant_id: _Optional[str] = ...) -> None: ...

class RestartConnectionResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DeviceTarget(_message.Message):
    __slots__ = ("connection_id", "endpoint_url", "security_mode", "security_policy", "username", "password")
    CONNECTION_ID_FIELD_NUMBER: _ClassVar[int]
    ENDPOINT_URL_FIELD_NUMBER: _ClassVar[int]
    SECURITY_MODE_FIELD_NUMBER: _ClassVar[int]
    SECURITY_POLICY_FIELD_NUMBER: _ClassVar[int]
    USERNAME_FIELD_NUMBER: _ClassVar[int]
    PASSWORD_FIELD_NUMBER: _ClassVar[int]
    connection_id: str
    endpoint_url: str
    security_mode: str
    security_policy: str
    username: str
    password: str
    def __init__(self, connection_id: _Optional[str] = ..., endpoint_url: _Optional[str] = ..., security_mode: _Optional[str] = ..., security_policy: _Optional[str] = ..., username: _Optional[str] = ..., password: _Optional[str] = ...) -> None: ...

class BrowseNodesRequest(_message.Message):
    __slots__ = ("tenant_id", "device", "start_node_id", "order", "max_depth", "paths", "node_classes", "data_types", "namespaces", "storable_only", "include_server", "include_properties", "values", "limit", "page_token")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    START_NODE_ID_FIELD_NUMBER: _ClassVar[int]
    ORDER_FIELD_NUMBER: _ClassVar[int]
    MAX_DEPTH_FIELD_NUMBER: _ClassVar[int]
    PATHS_FIELD_NUMBER: _ClassVar[int]
    NODE_CLASSES_FIELD_NUMBER: _ClassVar[int]
    DATA_TYPES_FIELD_NUMBER: _ClassVar[int]
    NAMESPACES_FIELD_NUMBER: _ClassVar[int]
    STORABLE_ONLY_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_SERVER_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_PROPERTIES_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    device: DeviceTarget
    start_node_id: str
    order: BrowseOrder
    max_depth: int
    paths: _containers.RepeatedScalarFieldContainer[str]
    node_classes: _containers.RepeatedScalarFieldContainer[str]
    data_types: _containers.RepeatedScalarFieldContainer[str]
    namespaces: _containers.RepeatedScalarFieldContainer[int]
    storable_only: bool
    include_server: bool
    include_properties: bool
    values: bool
    limit: int
    page_token: str
    def __init__(self, tenant_id: _Optional[str] = ..., device: _Optional[_Union[DeviceTarget, _Mapping]] = ..., start_node_id: _Optional[str] = ..., order: _Optional[_Union[BrowseOrder, str]] = ..., max_depth: _Optional[int] = ..., paths: _Optional[_Iterable[str]] = ..., node_classes: _Optional[_Iterable[str]] = ..., data_types: _Optional[_Iterable[str]] = ..., namespaces: _Optional[_Iterable[int]] = ..., storable_only: _Optional[bool] = ..., include_server: _Optional[bool] = ..., include_properties: _Optional[bool] = ..., values: _Optional[bool] = ..., limit: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class BrowseNodesResponse(_message.Message):
    __slots__ = ("nodes", "next_page_token", "nodes_visited", "nodes_unread")
    NODES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    NODES_VISITED_FIELD_NUMBER: _ClassVar[int]
    NODES_UNREAD_FIELD_NUMBER: _ClassVar[int]
    nodes: _containers.RepeatedCompositeFieldContainer[BrowsedNode]
    next_page_token: str
    nodes_visited: int
    nodes_unread: int
    def __init__(self, nodes: _Optional[_Iterable[_Union[BrowsedNode, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., nodes_visited: _Optional[int] = ..., nodes_unread: _Optional[int] = ...) -> None: ...

class BrowsedNode(_message.Message):
    __slots__ = ("node_id", "path", "name", "node_class", "data_type", "is_array", "is_readable", "problem", "unit", "range_low", "range_high", "value", "status")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    NODE_CLASS_FIELD_NUMBER: _ClassVar[int]
    DATA_TYPE_FIELD_NUMBER: _ClassVar[int]
    IS_ARRAY_FIELD_NUMBER: _ClassVar[int]
    IS_READABLE_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    RANGE_LOW_FIELD_NUMBER: _ClassVar[int]
    RANGE_HIGH_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    path: str
    name: str
    node_class: str
    data_type: str
    is_array: bool
    is_readable: bool
    problem: str
    unit: str
    range_low: float
    range_high: float
    value: str
    status: str
    def __init__(self, node_id: _Optional[str] = ..., path: _Optional[str] = ..., name: _Optional[str] = ..., node_class: _Optional[str] = ..., data_type: _Optional[str] = ..., is_array: _Optional[bool] = ..., is_readable: _Optional[bool] = ..., problem: _Optional[str] = ..., unit: _Optional[str] = ..., range_low: _Optional[float] = ..., range_high: _Optional[float] = ..., value: _Optional[str] = ..., status: _Optional[str] = ...) -> None: ...

class TestConnectionRequest(_message.Message):
    __slots__ = ("tenant_id", "device", "node_ids")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    NODE_IDS_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    device: DeviceTarget
    node_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, tenant_id: _Optional[str] = ..., device: _Optional[_Union[DeviceTarget, _Mapping]] = ..., node_ids: _Optional[_Iterable[str]] = ...) -> None: ...

class TestConnectionResponse(_message.Message):
    __slots__ = ("success", "steps", "endpoints", "certificate_thumbprint", "certificate_trusted", "certificate_refusal")
    SUCCESS_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    ENDPOINTS_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_THUMBPRINT_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_TRUSTED_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_REFUSAL_FIELD_NUMBER: _ClassVar[int]
    success: bool
    steps: _containers.RepeatedCompositeFieldContainer[TestStep]
    endpoints: _containers.RepeatedCompositeFieldContainer[OfferedEndpoint]
    certificate_thumbprint: str
    certificate_trusted: bool
    certificate_refusal: str
    def __init__(self, success: _Optional[bool] = ..., steps: _Optional[_Iterable[_Union[TestStep, _Mapping]]] = ..., endpoints: _Optional[_Iterable[_Union[OfferedEndpoint, _Mapping]]] = ..., certificate_thumbprint: _Optional[str] = ..., certificate_trusted: _Optional[bool] = ..., certificate_refusal: _Optional[str] = ...) -> None: ...

class TestStep(_message.Message):
    __slots__ = ("name", "outcome", "detail", "duration_ms", "lines")
    NAME_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    DURATION_MS_FIELD_NUMBER: _ClassVar[int]
    LINES_FIELD_NUMBER: _ClassVar[int]
    name: str
    outcome: str
    detail: str
    duration_ms: float
    lines: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, name: _Optional[str] = ..., outcome: _Optional[str] = ..., detail: _Optional[str] = ..., duration_ms: _Optional[float] = ..., lines: _Optional[_Iterable[str]] = ...) -> None: ...

class OfferedEndpoint(_message.Message):
    __slots__ = ("security_mode", "security_policy", "user_tokens")
    SECURITY_MODE_FIELD_NUMBER: _ClassVar[int]
    SECURITY_POLICY_FIELD_NUMBER: _ClassVar[int]
    USER_TOKENS_FIELD_NUMBER: _ClassVar[int]
    security_mode: str
    security_policy: str
    user_tokens: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, security_mode: _Optional[str] = ..., security_policy: _Optional[str] = ..., user_tokens: _Optional[_Iterable[str]] = ...) -> None: ...

class RefusedTag(_message.Message):
    __slots__ = ("node_id", "status")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    status: str
    def __init__(self, node_id: _Optional[str] = ..., status: _Optional[str] = ...) -> None: ...

class Subscription(_message.Message):
    __slots__ = ("requested_publishing_interval_ms", "revised_publishing_interval_ms", "requested_keep_alive_count", "revised_keep_alive_count", "requested_lifetime_count", "revised_lifetime_count")
    REQUESTED_PUBLISHING_INTERVAL_MS_FIELD_NUMBER: _ClassVar[int]
    REVISED_PUBLISHING_INTERVAL_MS_FIELD_NUMBER: _ClassVar[int]
    REQUESTED_KEEP_ALIVE_COUNT_FIELD_NUMBER: _ClassVar[int]
    REVISED_KEEP_ALIVE_COUNT_FIELD_NUMBER: _ClassVar[int]
    REQUESTED_LIFETIME_COUNT_FIELD_NUMBER: _ClassVar[int]
    REVISED_LIFETIME_COUNT_FIELD_NUMBER: _ClassVar[int]
    requested_publishing_interval_ms: float
    revised_publishing_interval_ms: float
    requested_keep_alive_count: int
    revised_keep_alive_count: int
    requested_lifetime_count: int
    revised_lifetime_count: int
    def __init__(self, requested_publishing_interval_ms: _Optional[float] = ..., revised_publishing_interval_ms: _Optional[float] = ..., requested_keep_alive_count: _Optional[int] = ..., revised_keep_alive_count: _Optional[int] = ..., requested_lifetime_count: _Optional[int] = ..., revised_lifetime_count: _Optional[int] = ...) -> None: ...

class RevisedItem(_message.Message):
    __slots__ = ("node_id", "requested_sampling_interval_ms", "revised_sampling_interval_ms", "requested_queue_size", "revised_queue_size")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    REQUESTED_SAMPLING_INTERVAL_MS_FIELD_NUMBER: _ClassVar[int]
    REVISED_SAMPLING_INTERVAL_MS_FIELD_NUMBER: _ClassVar[int]
    REQUESTED_QUEUE_SIZE_FIELD_NUMBER: _ClassVar[int]
    REVISED_QUEUE_SIZE_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    requested_sampling_interval_ms: float
    revised_sampling_interval_ms: float
    requested_queue_size: int
    revised_queue_size: int
    def __init__(self, node_id: _Optional[str] = ..., requested_sampling_interval_ms: _Optional[float] = ..., revised_sampling_interval_ms: _Optional[float] = ..., requested_queue_size: _Optional[int] = ..., revised_queue_size: _Optional[int] = ...) -> None: ...

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
