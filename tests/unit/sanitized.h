/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_TESTS_SANITIZED_H
#define DEDUPSCAN_TESTS_SANITIZED_H

/* 1 when this was built with a sanitizer that looks at memory: everything takes longer, and address space means nothing. */

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SANITIZED 1
#endif
#endif
#ifdef __SANITIZE_ADDRESS__
#define SANITIZED 1
#endif
#ifndef SANITIZED
#define SANITIZED 0
#endif

#endif
