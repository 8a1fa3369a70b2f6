import { userInfo } from 'node:os';
import type { NewAuditEntry } from '../storage/audit.js';

/** The audit entry of something done on the command line; who did it is the system's user. */
export function commandEntry(operation: string, laboratory: string, subjectId: string): NewAuditEntry {
  return {
    at: new Date(),
    laboratory,
    actorKind: 'command',
    actorId: systemUser(),
    operation,
    method: null,
    route: null,
    subjectId,
    status: null,
    outcome: 'success',
    remote: null,
    requestId: null,
  };
}

function systemUser(): string {
  try {
    return userInfo().username;
  } catch {
    // A container's user may have no name.
    return `uid ${process.getuid?.() ?? 'unknown'}`;
  }
}
