/* SPDX-License-Identifier: Apache-2.0 */
#include "compactor/relayout_parts.h"
#include "scanner/base/checked.h"
#include "scanner/base/file.h"
#include "scanner/image/vdi_format.h"

/*
 *	old	| header | map |   |x| block 0 |x| block 1 | ...		x: extra bytes of a block
 *	new	| header | map |   |      |x| block 0 |x| block 1 | ...
 *	                            ^ where the data began   ^ a multiple of 1 MiB: VirtualBox's own choice
 *
 * One number in the header changes; everything else is moved as it is, known or not.  So an image whose data is aligned already
 * comes out as it was, but for zeros that are holes now. */

static int check_blocks(const struct vdi_header *h, struct err *err)
{
	if (h->block_size < RELAYOUT_UNIT || h->block_extra % RELAYOUT_UNIT)
		return err_set(err, ERR_UNSUPPORTED, "blocks of %u bytes behind %u extra ones cannot be aligned", h->block_size,
			       h->block_extra);
	return 0;
}

static int read_header(const struct image_file *old, struct vdi_header *ret, struct err *err)
{
	struct vdi_header_disk d;

	if (image_file_read(old, &d, sizeof(d), 0, err) < 0 || vdi_header_decode(&d, ret, err) < 0)
		return -1;
	return check_blocks(ret, err);
}

static uint64_t new_data_offset(const struct vdi_header *h)
{
	return h->data_offset % RELAYOUT_UNIT ? round_up(h->data_offset, MIB) : h->data_offset;
}

int relayout_vdi(const struct image_file *old, struct sparse_copy *c, uint64_t *ret_size, struct err *err)
{
	struct vdi_header h;
	uint64_t data, head;
	le32 field;

	if (read_header(old, &h, err) < 0)
		return -1;
	data = new_data_offset(&h);
	if (data > UINT32_MAX)
		return err_set(err, ERR_UNSUPPORTED, "data at offset %llu cannot be moved up", (unsigned long long)h.data_offset);
	head = min_u64(h.data_offset, old->size);
	if (sparse_copy(c, 0, 0, head, err) < 0 || sparse_copy(c, head, data, old->size - head, err) < 0)
		return -1;
	field = le32_from((uint32_t)data);
	*ret_size = old->size + (data - h.data_offset);
	return file_write(c->to, &field, sizeof(field), offsetof(struct vdi_header_disk, data_offset), err);
}
