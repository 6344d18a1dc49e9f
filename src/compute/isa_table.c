/* The table of one instruction set's kernels. */
#include "compute/isa.h"

#define TEXT_OF(x) #x
#define TEXT(x)    TEXT_OF(x)

const dlm_kernels ISA_NAME(dlm__kernels) = {.name = TEXT(DLM_ISA),
                                            .int8_form = INT8_FORM,
                                            .int8_rows = INT8_ROWS,
#define X(entry) .entry = KERNEL(entry),
                                            ISA_KERNELS(X)
#undef X
};
