import { expect, it } from 'vitest';
import { analysisLinks, cellLinks, imageLinks, nextPageLink } from '../../../src/http/links.js';

it('names the addresses of an analysis, its images and its cells', () => {
  expect(analysisLinks('A')).toEqual({
    self: '/analyses/A',
    cells: '/analyses/A/cells',
    changes: '/analyses/A/changes',
    fhir: '/analyses/A/fhir',
    hl7: '/analyses/A/hl7',
  });
  expect(imageLinks('A', 3)).toEqual({
    original: '/analyses/A/images/3/original',
    mask: '/analyses/A/images/3/mask.png',
    overlay: '/analyses/A/images/3/overlay.png',
    saliency: '/analyses/A/images/3/saliency.png',
    cells: '/analyses/A/cells?image=3',
  });
  expect(cellLinks('A', '3-1')).toEqual({
    crop: '/analyses/A/cells/3-1/crop.png',
    mask: '/analyses/A/cells/3-1/mask.png',
    cam: '/analyses/A/cells/3-1/cam.png',
  });
});

it('keeps the filters on the next page and replaces the cursor', () => {
  expect(
    nextPageLink('/analyses', { accessionNumber: 'a&b c', limit: 5, cursor: 'old', status: undefined }, 'new'),
  ).toBe('/analyses?accessionNumber=a%26b+c&limit=5&cursor=new');
  expect(nextPageLink('/analyses', { limit: 5 }, null)).toBeNull();
});
