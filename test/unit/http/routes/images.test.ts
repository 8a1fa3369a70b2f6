import { expect, it } from 'vitest';
import { contentDisposition } from '../../../../src/http/routes/images.js';

it.each([
  ['smear.jpg', "inline; filename*=UTF-8''smear.jpg"],
  ['é "x";\r\n.png', "inline; filename*=UTF-8''%C3%A9%20%22x%22%3B%0D%0A.png"],
  ["it's (1).png", "inline; filename*=UTF-8''it%27s%20%281%29.png"],
])('writes the name %j into a header', (filename, header) => {
  expect(contentDisposition(filename)).toBe(header);
});
