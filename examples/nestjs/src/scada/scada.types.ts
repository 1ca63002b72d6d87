// The messages of proto/scada.proto as the loader makes them: camel case, int64 as decimal strings, enums as names.
// `?` marks what is `optional` in the contract; everything else is always there in answers (defaults: true).
import type { CallOptions, Client, ClientReadableStream, Metadata } from '@grpc/grpc-js';
import type { Observable } from 'rxjs';

export interface TagMapping {
  tagId: string;
  wellId: string;
  nodeId: string;
  dataType: string;
  name?: string;
  unit?: string;
  scalingFactor?: number;
  deadband?: number;
  deadbandPercent?: number;
  samplingIntervalMs?: number;
  queueSize?: number;
  discardOldest?: boolean;
}

export interface AddConnectionRequest {
  connectionId: string;
  tenantId: string;
  endpointUrl: string;
  securityMode?: string;
  securityPolicy?: string;
  username?: string;
  password?: string;
  tags: TagMapping[];
  name?: string;
  publishingIntervalMs?: number;
  samplingIntervalMs?: number;
  queueSize?: number;
  discardOldest?: boolean;
}

export interface AddConnectionResponse {
  success: boolean;
  error?: string;
}

export interface ConnectionSummary {
  connectionId: string;
  name: string;
  endpointUrl: string;
  securityMode: string;
  securityPolicy: string;
  username?: string;
  active: boolean;
  state: string;
  since: string;
  attemptsFailed: number;
  lastError?: string;
  lastErrorType?: string;
  tagsConfigured: number;
  tagsMonitored: number;
  tagsRefused: number;
  readings: string;
  readingsPerSecond: number;
  lastReadingTime?: string;
  tags: TagMapping[];
}

export interface Loss {
  reason: string;
  fromTimeUs: string;
  toTimeUs: string;
  count?: string;
  detail: string;
}

export interface Subscription {
  requestedPublishingIntervalMs: number;
  revisedPublishingIntervalMs: number;
  requestedKeepAliveCount: number;
  revisedKeepAliveCount: number;
  requestedLifetimeCount: number;
  revisedLifetimeCount: number;
}

export interface RevisedItem {
  nodeId: string;
  requestedSamplingIntervalMs: number;
  revisedSamplingIntervalMs: number;
  requestedQueueSize: number;
  revisedQueueSize: number;
}

export interface ConnectionReport {
  connectionId: string;
  tenantId: string;
  name: string;
  endpointUrl: string;
  state: string;
  since: string;
  attemptsFailed: number;
  lastError?: string;
  lastErrorType?: string;
  tagsMonitored: number;
  tagsRefused: { nodeId: string; status: string }[];
  readings: string;
  lastReadingTime?: string;
  unstorable: Record<string, string>;
  losses: Loss[];
  subscription: Subscription | null;
  itemsRevised: number;
  revisedItems: RevisedItem[];
  itemsUnfiltered: number;
  readingsPerSecond: number;
}

export interface UpdateConnectionTagsRequest {
  connectionId: string;
  tenantId: string;
  tags: TagMapping[];
  removeTagIds: string[];
  replace: boolean;
}

export interface Reading {
  wellId: string;
  tagNodeId: string;
  timestamp: string;
  value: number;
  quality: 'Good' | 'Uncertain' | 'Bad';
  timestampUs: string;
}

export type Order = 'ORDER_NEWEST_FIRST' | 'ORDER_OLDEST_FIRST';
export type Resolution = 'RESOLUTION_AUTO' | 'RESOLUTION_HOURLY' | 'RESOLUTION_DAILY' | 'RESOLUTION_MONTHLY';

/** What StreamReadings and, with paging, QueryReadings are asked. */
export interface ReadingsRequest {
  tenantId: string;
  wellId: string;
  startTimeUs: string;
  endTimeUs: string;
  tagNodeIds: string[];
  order: Order;
}

export interface Page {
  limit: number;
  pageToken: string;
}

export interface ReadingsResponse {
  readings: Reading[];
  nextPageToken: string;
}

export interface AggregatesRequest {
  tenantId: string;
  wellId: string;
  startTimeUs: string;
  endTimeUs: string;
  tagNodeIds: string[];
  resolution: Resolution;
  maxPoints: number;
}

export interface Aggregate {
  tagNodeId: string;
  bucketStartUs: string;
  avg?: number;
  min?: number;
  max?: number;
  stddev?: number;
  count: string;
  uncertainCount: string;
  badCount: string;
  totalCount: string;
}

export interface AggregatesResponse {
  resolution: Resolution;
  aggregates: Aggregate[];
  nextPageToken: string;
}

export interface LatestRequest {
  tenantId: string;
  wellIds: string[];
  tagNodeIds: string[];
}

export interface LiveReadings {
  readings: Reading[];
  missed: string;
}

export interface Health {
  status: 'healthy' | 'degraded' | 'unhealthy';
  activeConnections: number;
  activeTenants: number;
}

type Unary<Request, Response> = (request: Request, metadata: Metadata, options: CallOptions) => Observable<Response>;

/** What `ClientGrpc.getService` makes: the methods that have one answer. */
export interface ScadaApi {
  addConnection: Unary<AddConnectionRequest, AddConnectionResponse>;
  removeConnection: Unary<{ connectionId: string }, { success: boolean }>;
  getConnection: Unary<{ connectionId: string }, ConnectionReport>;
  listConnections: Unary<{ tenantId: string; includeTags: boolean }, { connections: ConnectionSummary[] }>;
  updateConnectionTags: Unary<UpdateConnectionTagsRequest, { tagsConfigured: number }>;
  queryReadings: Unary<ReadingsRequest & Page, ReadingsResponse>;
  queryAggregates: Unary<AggregatesRequest & Page, AggregatesResponse>;
  latestReadings: Unary<LatestRequest, { readings: Reading[] }>;
  healthCheck: Unary<object, Health>;
}

/** What `ClientGrpc.getClientByServiceName` makes: streams are taken from it, since an Observable cannot slow its source. */
export interface ScadaClient extends Client {
  streamReadings(request: ReadingsRequest, metadata: Metadata): ClientReadableStream<{ readings: Reading[] }>;
  subscribeReadings(request: LatestRequest, metadata: Metadata): ClientReadableStream<LiveReadings>;
}
