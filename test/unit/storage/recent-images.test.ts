import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { RecentImages } from '../../../src/storage/recent-images.js';

const MEBIBYTE = 1024 * 1024;

describe('images that were just stored', () => {
  beforeEach(() => {
    vi.useFakeTimers({ toFake: ['performance'] });
  });
  afterEach(() => {
    vi.useRealTimers();
  });

  it('are here until their run has begun', () => {
    const images = new RecentImages();
    const bytes = Buffer.alloc(100);
    images.put('a', 0, bytes);
    expect(images.get('a', 0)).toBe(bytes);
    expect(images.get('a', 1)).toBeNull();
    expect(images.get('b', 0)).toBeNull();
    images.forget('a', 0);
    images.forget('a', 0);
    expect(images.get('a', 0)).toBeNull();
  });

  it('take so much room and no more, and give it back', () => {
    const images = new RecentImages();
    for (let index = 0; index < 20; index++) images.put('a', index, Buffer.alloc(MEBIBYTE));
    expect(images.get('a', 15)).not.toBeNull();
    expect(images.get('a', 16)).toBeNull();
    images.forget('a', 0);
    images.put('b', 0, Buffer.alloc(MEBIBYTE));
    expect(images.get('b', 0)).not.toBeNull();
    images.put('b', 1, Buffer.alloc(1));
    expect(images.get('b', 1)).toBeNull();
  });

  it('count with all that they keep from being freed', () => {
    const images = new RecentImages();
    images.put('a', 0, Buffer.alloc(17 * MEBIBYTE).subarray(0, 10));
    expect(images.get('a', 0)).toBeNull();
  });

  it('go when nobody has asked for them in a minute', () => {
    const images = new RecentImages();
    for (let index = 0; index < 16; index++) images.put('a', index, Buffer.alloc(MEBIBYTE));
    vi.advanceTimersByTime(59_000);
    images.put('b', 0, Buffer.alloc(1));
    expect(images.get('b', 0)).toBeNull();
    vi.advanceTimersByTime(1_000);
    images.put('b', 0, Buffer.alloc(1));
    expect(images.get('b', 0)).not.toBeNull();
    expect(images.get('a', 0)).toBeNull();
  });
});
