import { randomUUID } from 'node:crypto';
import { Body, ConflictException, Controller, Delete, Get, HttpCode, Param, Patch, Post, Query } from '@nestjs/common';
import { ConnectionsRepository } from './connections.repository.js';
import {
  ConnectionBody,
  ConnectionParams,
  ConnectionsQuery,
  TagsBody,
  TenantQuery,
  type TagBody,
} from './dto/connections.dto.js';
import { ScadaService } from './scada.service.js';
import type { AddConnectionRequest, ConnectionReport, ConnectionSummary, TagMapping } from './scada.types.js';

/** Connections of one tenant. Put your guard before it and take `tenantId` from the session, not from the request. */
@Controller('scada/connections')
export class ConnectionsController {
  constructor(
    private readonly scada: ScadaService,
    private readonly repository: ConnectionsRepository,
  ) {}

  /** A device that does not answer is no failure: the connection is stored and tried until it does. */
  @Post()
  async add(@Body() body: ConnectionBody): Promise<{ connectionId: string }> {
    const request = identified(body);
    const problem = await this.scada.addConnection(request);
    if (problem !== undefined) {
      // The answer says why for people; for programs, a tenant that does not exist or a database that is away shows here.
      await this.scada.connections(request.tenantId, false);
      throw new ConflictException(problem);
    }
    return { connectionId: request.connectionId };
  }

  /** The same by way of the master database; 202, since the service has not seen it yet. */
  @Post('stored')
  @HttpCode(202)
  async store(@Body() body: ConnectionBody): Promise<{ connectionId: string }> {
    const request = identified(body);
    await this.repository.save(request);
    return { connectionId: request.connectionId };
  }

  @Get()
  async list(@Query() query: ConnectionsQuery): Promise<{ connections: ConnectionSummary[] }> {
    return { connections: await this.scada.connections(query.tenantId, query.includeTags) };
  }

  @Get(':connectionId')
  get(@Param() { connectionId }: ConnectionParams, @Query() { tenantId }: TenantQuery): Promise<ConnectionReport> {
    return this.scada.connection(tenantId, connectionId);
  }

  @Delete(':connectionId')
  @HttpCode(204)
  remove(@Param() { connectionId }: ConnectionParams, @Query() { tenantId }: TenantQuery): Promise<void> {
    return this.scada.removeConnection(tenantId, connectionId);
  }

  @Patch(':connectionId/tags')
  async updateTags(
    @Param() { connectionId }: ConnectionParams,
    @Body() { tags, ...rest }: TagsBody,
  ): Promise<{ tagsConfigured: number }> {
    return { tagsConfigured: await this.scada.updateTags({ connectionId, ...rest, tags: tags.map(mapping) }) };
  }
}

function identified(body: ConnectionBody): AddConnectionRequest {
  return { ...body, connectionId: body.connectionId ?? randomUUID(), tags: body.tags.map(mapping) };
}

function mapping(tag: TagBody): TagMapping {
  return { ...tag, tagId: tag.tagId ?? randomUUID(), dataType: tag.dataType ?? '' };
}
